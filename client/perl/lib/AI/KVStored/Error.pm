package AI::KVStored::Error;

# What a call that failed dies with: a row of docs/ERRORS.md, with the words of the one who refused.
#
# reason: the name of the row, "KEY_NOT_FOUND". code: its number in gRPC. message: a sentence.

use strict;
use warnings;

use overload
    '""'     => sub { $_[0]->message },
    'bool'   => sub { 1 },
    fallback => 1;

use constant { INVALID_ARGUMENT => 3, UNIMPLEMENTED => 12 };

sub new
{
    my ($class, %is) = @_;
    return bless {%is}, $class;
}

sub reason  { return $_[0]{reason} }
sub code    { return $_[0]{code} }
sub message { return $_[0]{message} }

sub throw
{
    my ($class, %is) = @_;
    die $class->new(%is);
}

# What this package itself refuses, by the same names as the library.
sub invalid
{
    my ($class, $words) = @_;
    return $class->throw(
        reason  => 'INVALID_FIELD',
        code    => INVALID_ARGUMENT,
        message => "INVALID_FIELD: $words"
    );
}

sub unimplemented
{
    my ($class, $words) = @_;
    return $class->throw(
        reason  => 'UNIMPLEMENTED',
        code    => UNIMPLEMENTED,
        message => "UNIMPLEMENTED: $words"
    );
}

1;
