package AI::KVStored::Handle;

# A pull or pushpull that was asked for with `wait => 0`: its outs are full once it was waited for.
#
# It keeps the memory that the library writes to. The store knows its open handles, and waits for
# them in `wait` and `close`.

use strict;
use warnings;

use AI::KVStored::Error;
use AI::KVStored::Library;
use Scalar::Util qw(weaken);

use constant FOREVER => ~0;

# then: fills the outs from what the library has written. keep: what the library writes to.
sub new
{
    my ($class, %is) = @_;
    my $self = bless {%is}, $class;
    weaken $self->{store};
    return $self;
}

sub is_done
{
    my ($self) = @_;
    return 1 if !defined $self->{pointer};
    return AI::KVStored::Library::kv_handle_is_done($self->{store}->pointer, $self->{pointer});
}

# Dies if the request has failed; a second wait does nothing.
sub wait
{
    my ($self) = @_;
    return if !defined $self->{pointer};
    my $store = $self->{store} or AI::KVStored::Error->throw(STOPPING => 'the store is gone');
    my $status =
        AI::KVStored::Library::kv_handle_wait($store->pointer, $self->{pointer}, FOREVER);
    $self->forget;
    $store->check($status);
    (delete $self->{then})->();
    delete $self->{keep};
    return;
}

# The library's handle is gone: waited for, or closed with its store.
sub forget
{
    my ($self) = @_;
    my $pointer = delete $self->{pointer};
    delete $self->{store}{handles}{$pointer} if defined $pointer && $self->{store};
    return;
}

1;
