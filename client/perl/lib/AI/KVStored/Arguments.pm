package AI::KVStored::Arguments;

# Keys, values and outs in MXNet's forms, and as the arrays of structs that libkvstore takes.
#
# What a packed string points to is added to `keep`, and has to live as long as the library uses it.

use strict;
use warnings;

use AI::KVStored::Array;
use AI::KVStored::Error;
use AI::KVStored::RowSparse;
use Exporter qw(import);
use FFI::Platypus::Buffer qw(scalar_to_pointer);
use Scalar::Util qw(blessed);

our @EXPORT_OK = qw(group have_rows named pack_arrays pack_counts pack_keys pack_rows receivers);

# What came after the key and the value: `out` may stand without its name.
sub named
{
    my ($call, $known, @rest) = @_;
    if (@rest % 2) {
        AI::KVStored::Error->invalid("$call takes its options by name: $known->[0] => ...")
            if !grep { $_ eq 'out' } @$known;
        unshift @rest, 'out';
    }
    my %given = @rest;
    for my $name (sort keys %given) {
        AI::KVStored::Error->invalid("$call has no argument $name")
            if !grep { $_ eq $name } @$known;
    }
    return %given;
}

sub is_rows
{
    my ($value) = @_;
    return blessed($value) && $value->isa('AI::KVStored::RowSparse');
}

# The keys as one list, the values as a list of lists: those of the devices, one list a key.
sub group
{
    my ($call, $key, $value) = @_;
    my $several = ref $key eq 'ARRAY';
    my @keys    = $several ? @$key : ($key);
    AI::KVStored::Error->invalid("$call: a key is a string or a number")
        if grep { !defined || ref } @keys;
    AI::KVStored::Error->invalid("$call: there is no value") if !defined $value;
    AI::KVStored::Error->invalid("$call: a list of keys needs a list of values, one a key")
        if $several && (ref $value ne 'ARRAY' || @$value != @keys);
    my @lists = map { ref $_ eq 'ARRAY' ? $_ : [$_] } $several ? @$value : ($value);
    for my $list (@lists) {
        AI::KVStored::Error->invalid("$call: a value is a PDL or a list of PDLs, one a device")
            if !@$list || grep { !AI::KVStored::Array::is_array($_) && !is_rows($_) } @$list;
    }
    return (\@keys, \@lists);
}

# Whether the values are rows. In one call all are, or none.
sub have_rows
{
    my ($call, $lists) = @_;
    my @values = map { @$_ } @$lists;
    my $rows   = grep { is_rows($_) } @values;
    AI::KVStored::Error->invalid("$call: of one call all values are RowSparse, or none is")
        if $rows != 0 && $rows != @values;
    return $rows != 0;
}

# kv_key of each name. Numbers travel as their digits, so that 3 and '3' are one key.
sub pack_keys
{
    my ($keys, $keep) = @_;
    my $packed = '';
    for my $key (@$keys) {
        my $name = "$key";
        utf8::encode($name);
        AI::KVStored::Error->invalid('a key holds no NUL') if $name =~ /\0/;
        push @$keep, \$name;
        $packed .= pack 'J q', scalar_to_pointer($name), 0;
    }
    push @$keep, \$packed;
    return scalar_to_pointer($packed);
}

sub pack_counts
{
    my ($lists, $keep) = @_;
    my $counts = pack 'Q*', map { scalar @$_ } @$lists;
    push @$keep, \$counts;
    return scalar_to_pointer($counts);
}

# kv_array of each PDL, and how many each key has.
sub pack_arrays
{
    my ($lists, $keep) = @_;
    my $packed = join '', map { AI::KVStored::Array::view($_, $keep) } map { @$_ } @$lists;
    push @$keep, \$packed;
    return (scalar_to_pointer($packed), pack_counts($lists, $keep));
}

# kv_row_sparse of each value, and how many each key has.
sub pack_rows
{
    my ($lists, $keep) = @_;
    my $packed = join '', map { $_->view($keep) } map { @$_ } @$lists;
    push @$keep, \$packed;
    return (scalar_to_pointer($packed), pack_counts($lists, $keep));
}

# PDLs for the library to write to, in the form of `outs`.
sub receivers
{
    my ($outs) = @_;
    return [map { [map { AI::KVStored::Array::like($_) } @$_] } @$outs];
}

1;
