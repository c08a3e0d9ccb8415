package AI::KVStored::RowSparse;

# Some rows of a value that has many. The rows are the last dimension of PDL, the store's first.
#
# indices: which rows, of one dimension; given to a store in any order, perhaps twice (such rows are
# added up), from a store each once, in ascending order. values: the rows, dimensions (..., rows).

use strict;
use warnings;

use AI::KVStored::Array;
use AI::KVStored::Error;
use FFI::Platypus::Buffer qw(scalar_to_pointer);
use PDL::Core ();
use PDL::Primitive ();
use PDL::Slices ();
use PDL::Types ();
use PDL::Ufunc ();

use constant { STRUCT_BYTES => 48, COUNT_OFFSET => 40, ID_DTYPE => 8 };

# dims: of the whole value, as PDL has them.
sub new
{
    my ($class, %is) = @_;
    my @dims = @{$is{dims} // []};
    AI::KVStored::Error->invalid('RowSparse needs indices, values and dims')
        if !@dims || grep { !AI::KVStored::Array::is_array($_) } @is{qw(indices values)};
    my $self = bless {
        indices => $is{indices}->flat->longlong,
        values  => $is{values},
        dims    => \@dims
    }, $class;
    $self->check;
    return $self;
}

# Dies unless there is a row for each index; a PDL may have been reshaped since it was given.
sub check
{
    my ($self) = @_;
    my @dims = $self->dims;
    my @expected = (@dims[0 .. $#dims - 1], $self->{indices}->nelem);
    AI::KVStored::Error->invalid("RowSparse: the values have the dims @{[$self->{values}->dims]}, "
            . "with these indices they are @expected")
        if "@expected" ne join ' ', $self->{values}->dims;
    return;
}

# No rows yet: an out.
sub zeros
{
    my ($class, $type, @dims) = @_;
    AI::KVStored::Error->invalid('RowSparse needs dims') if !@dims;
    return $class->new(
        indices => PDL->new_from_specification(PDL::longlong(), 0),
        values  => PDL->new_from_specification($type, @dims[0 .. $#dims - 1], 0),
        dims    => \@dims
    );
}

# The rows of a PDL that are not all zero.
sub from_dense
{
    my ($class, $pdl) = @_;
    my @dims = $pdl->dims;
    AI::KVStored::Error->invalid('RowSparse: a scalar has no rows') if !@dims;
    my $marks   = $pdl != 0;
    $marks = $marks->clump(@dims - 1)->orover if @dims > 1;
    my $indices = PDL::Primitive::which($marks)->longlong;
    return $class->zeros($pdl->type, @dims) if $indices->isempty;
    return $class->new(
        indices => $indices,
        values  => $pdl->dice_axis($#dims, $indices)->copy,
        dims    => \@dims
    );
}

sub indices { return $_[0]{indices} }
sub values  { return $_[0]{values} } ## no critic (the name is that of every client)
sub dims    { return @{$_[0]{dims}} }
sub type    { return $_[0]{values}->type }

# The whole value: zero where there is no row.
sub aspdl
{
    my ($self) = @_;
    my $dense = PDL->zeroes($self->type, $self->dims);
    PDL::Primitive::indadd($self->{values}->mv(-1, 0), $self->{indices}, $dense->mv(-1, 0))
        if !$self->{indices}->isempty;
    return $dense;
}

# kv_row_sparse of these rows, whose numbers `keep` holds.
sub view
{
    my ($self, $keep) = @_;
    $self->check;
    my ($values, $dtype) = unpack 'J L', AI::KVStored::Array::view($self->{values}, $keep);
    my ($ids) = unpack 'J', AI::KVStored::Array::view($self->{indices}, $keep);
    my $shape = pack 'Q*', reverse @{$self->{dims}};
    push @$keep, \$shape;
    return pack 'J L L J J L x4 Q', $values, $dtype, scalar @{$self->{dims}},
        scalar_to_pointer($shape), $ids, ID_DTYPE, $self->{indices}->nelem;
}

# How many rows the library wrote for the out at `index` of an array of kv_row_sparse.
sub count_in
{
    my ($packed, $index) = @_;
    return unpack 'Q', substr $packed, $index * STRUCT_BYTES + COUNT_OFFSET, 8;
}

# The same value with room for rows that the library writes.
sub with_room
{
    my ($self, $rows) = @_;
    my @dims = $self->dims;
    return (ref $self)->new(
        indices => PDL->zeroes(PDL::longlong(), $rows),
        values  => PDL->new_from_specification($self->type, @dims[0 .. $#dims - 1], $rows),
        dims    => \@dims
    );
}

# Takes the first `count` rows that the library wrote into `from`.
sub fill
{
    my ($self, $from, $count) = @_;
    if ($count == 0) {
        my $none = (ref $self)->zeros($self->type, $self->dims);
        @$self{qw(indices values)} = @$none{qw(indices values)};
        return;
    }
    $_->upd_data for @$from{qw(indices values)};
    my $rows = '0:' . ($count - 1);
    $self->{indices} = $from->{indices}->slice($rows)->copy;
    $self->{values} = $from->{values}->slice(join ',', (':') x ($self->dims - 1), $rows)->copy;
    return;
}

1;
