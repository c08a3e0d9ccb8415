package AI::KVStored::Array;

# PDLs as arrays of libkvstore. PDL names the dimension that varies fastest first, the store last: a
# PDL of dimensions (3, 2) is a tensor of shape [2, 3], and the bytes are the same.

use strict;
use warnings;

use AI::KVStored::Error;
use FFI::Platypus::Buffer qw(buffer_to_scalar scalar_to_pointer);
use FFI::Platypus::Memory qw(memcpy);
use PDL::Core ();
use PDL::Types ();
use Scalar::Util qw(blessed);

use constant { STRUCT_BYTES => 24, WORD_BYTES => 8 };

# The numbers of kv_dtype, by the names of PDL. f16 and bf16 have no type in PDL.
my %dtypes = (
    float    => 1,
    double   => 2,
    byte     => 5,
    sbyte    => 6,
    long     => 7,
    longlong => 8,
    indx     => 8,
);
my %types = (1 => 'float', 2 => 'double', 5 => 'byte', 6 => 'sbyte', 7 => 'long', 8 => 'longlong');

sub is_array
{
    my ($value) = @_;
    return blessed($value) && $value->isa('PDL');
}

# kv_array over the PDL's own numbers; `keep` receives what has to outlive it.
sub view
{
    my ($pdl, $keep) = @_;
    my $type  = $pdl->type;
    my $dtype = $dtypes{"$type"};
    AI::KVStored::Error->invalid(
        "PDL's type $type has no dtype; convert to float, double, byte, sbyte, long or longlong")
        if !defined $dtype;
    my @shape = reverse $pdl->dims;
    my $shape = pack 'Q*', @shape, 0;
    my $data  = $pdl->get_dataref;
    push @$keep, $pdl, $data, \$shape;
    return pack 'J L L J', scalar_to_pointer($$data), $dtype, scalar @shape,
        scalar_to_pointer($shape);
}

# A PDL of the same type and dimensions as an `out`, for the library to write to.
sub like
{
    my ($pdl) = @_;
    return PDL->new_from_specification($pdl->type, $pdl->dims);
}

# What the library wrote into `from` becomes the value of `out`, which may be a slice.
sub fill
{
    my ($out, $from) = @_;
    $from->upd_data;
    $out .= $from;
    return;
}

# (dtype, bytes of the numbers, their address, dims of PDL) of a kv_array in C's memory.
sub read_struct
{
    my ($pointer) = @_;
    my ($data, $dtype, $rank, $shape) = unpack 'J L L J', buffer_to_scalar($pointer, STRUCT_BYTES);
    my @shape = $rank ? unpack 'Q*', buffer_to_scalar($shape, $rank * WORD_BYTES) : ();
    my $type = $types{$dtype}
        or AI::KVStored::Error->invalid("values of dtype $dtype have no type in PDL");
    my $specification = PDL::Type->new($type);
    my $count = 1;
    $count *= $_ for @shape;
    return ($specification, $count * PDL::Core::howbig($specification->enum), $data,
        reverse @shape);
}

# A copy of an array in C's memory.
sub from_memory
{
    my ($pointer) = @_;
    my ($type, $bytes, $data, @dims) = read_struct($pointer);
    my $pdl = PDL->new_from_specification($type, @dims);
    if ($bytes) {
        ${$pdl->get_dataref} = buffer_to_scalar($data, $bytes);
        $pdl->upd_data;
    }
    return $pdl;
}

# Writes a PDL back to the array that it was copied from.
sub to_memory
{
    my ($pointer, $pdl) = @_;
    my ($type, $bytes, $data, @dims) = read_struct($pointer);
    AI::KVStored::Error->invalid('an updater has changed the type or the size of what is stored')
        if $pdl->type->enum != $type->enum || "@dims" ne join ' ', $pdl->dims;
    memcpy($data, scalar_to_pointer(${$pdl->get_dataref}), $bytes) if $bytes;
    return;
}

1;
