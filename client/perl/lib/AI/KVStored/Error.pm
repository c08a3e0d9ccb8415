package AI::KVStored::Error;

# What a call that failed dies with: a row of docs/ERRORS.md, with the words of the one who refused.
#
# reason: the name of the row, "KEY_NOT_FOUND". code: its number in gRPC. message: a sentence, which
# is the error as a string. next_step: what to do.

use strict;
use warnings;

use overload
    '""'     => sub { $_[0]->message },
    'bool'   => sub { 1 },
    fallback => 1;

# What this package refuses itself, by the library's names: code in gRPC, next step.
my %own = (
    INVALID_FIELD  => [3,  'Correct the call.'],
    NOT_REGISTERED => [9,  'Create a store in this process.'],
    STOPPING       => [14, 'Create another.'],
    UNIMPLEMENTED  => [12, 'See README.md for what is built.'],
);

sub new
{
    my ($class, %is) = @_;
    return bless {%is}, $class;
}

sub reason    { return $_[0]{reason} }
sub code      { return $_[0]{code} }
sub message   { return $_[0]{message} }
sub next_step { return $_[0]{next_step} }

sub throw
{
    my ($class, $reason, $words) = @_;
    die $class->new(
        reason    => $reason,
        code      => $own{$reason}[0],
        next_step => $own{$reason}[1],
        message   => "$reason: $words"
    );
}

sub invalid
{
    my ($class, $words) = @_;
    return $class->throw(INVALID_FIELD => $words);
}

1;
