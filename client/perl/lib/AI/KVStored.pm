package AI::KVStored;

# The store: MXNet's calls, checked for their form here, done by libkvstore. The manual is in POD
# below.

use strict;
use warnings;

use AI::KVStored::Arguments qw(group have_rows named pack_arrays pack_counts pack_keys pack_rows
    receivers);
use AI::KVStored::Array;
use AI::KVStored::Error;
use AI::KVStored::Handle;
use AI::KVStored::Library;
use AI::KVStored::RowSparse;
use FFI::Platypus::Buffer qw(scalar_to_pointer);
use JSON::PP ();
use Scalar::Util qw(blessed looks_like_number weaken);

our $VERSION = '0.1.0';

use constant { FOREVER => ~0, ERROR_BYTES => 512, MILLISECONDS => 1000 };

# Offsets in kv_options, and how each member is packed; times are given in seconds.
my %options = (
    store           => [0,  'p'],
    worker          => [8,  'p'],
    rank            => [16, 'q'],
    connect_timeout => [24, 'Q'],
    request_timeout => [32, 'Q'],
    credit_bytes    => [40, 'Q'],
);
my @counters = qw(reconnects replayed_parts parts_pushed parts_pulled bytes_sent bytes_received
    messages_sent bytes_shared bytes_mapped);

my %open; # by pointer, weak: what END closes

# ------------------------------------------------------------------ from open to close

# A status of the library with its words, which begin with the reason, if there are any.
sub die_of
{
    my ($status, $words) = @_;
    my $reason = AI::KVStored::Library::kv_status_reason($status);
    die AI::KVStored::Error->new(
        reason    => $reason,
        code      => AI::KVStored::Library::kv_status_grpc_code($status),
        next_step => AI::KVStored::Library::kv_status_advice($status),
        message   => $words || $reason
    );
}

sub check
{
    my ($self, $status) = @_;
    die_of($status, AI::KVStored::Library::kv_last_error($self->{pointer})) if $status != 0;
    return;
}

sub pack_options
{
    my ($given, $keep) = @_;
    my $packed = "\0" x AI::KVStored::Library::STRUCT_BYTES;
    AI::KVStored::Library::kv_options_init(scalar_to_pointer($packed));
    for my $name (sort keys %$given) {
        my $member = $options{$name};
        AI::KVStored::Error->invalid("create has no option $name; there are address, "
                . join ', ', sort keys %options)
            if !defined $member;
        my $value = $given->{$name};
        next if !defined $value;
        $value *= MILLISECONDS if $name =~ /timeout\z/;
        $value = "$value" if $member->[1] eq 'p';
        push @$keep, \$value;
        my $bytes = pack $member->[1], $value;
        substr $packed, $member->[0], length $bytes, $bytes;
    }
    return $packed;
}

sub create
{
    my ($class, $type, @rest) = @_;
    unshift @rest, 'address' if @rest % 2;
    my %given   = @rest;
    my $address = delete $given{address};
    AI::KVStored::Library::load();
    my @keep;
    my $packed  = pack_options(\%given, \@keep);
    my $pointer = pack 'J', 0;
    my $words   = "\0" x ERROR_BYTES;
    my $status  = AI::KVStored::Library::kv_create(
        $type // 'local', $address,
        scalar_to_pointer($packed),
        scalar_to_pointer($pointer),
        scalar_to_pointer($words), ERROR_BYTES
    );
    die_of($status, unpack 'Z*', $words) if $status != 0;
    my $self = bless {process => $$, handles => {}}, $class;
    $self->{pointer} = unpack 'J', $pointer;
    $open{$self->{pointer}} = $self;
    weaken $open{$self->{pointer}};
    return $self;
}

# The library's store. A child process has no part in it: its threads stayed with the parent.
sub pointer
{
    my ($self) = @_;
    AI::KVStored::Error->throw(STOPPING => 'the store is closed') if !defined $self->{pointer};
    AI::KVStored::Error->throw(NOT_REGISTERED => 'the store is that of the process that created it')
        if $self->{process} != $$;
    AI::KVStored::Error->invalid("$self->{inside} calls its own store") if $self->{inside};
    return $self->{pointer};
}

sub close ## no critic (the name is that of every client)
{
    my ($self) = @_;
    return if !defined $self->{pointer};
    my $pointer = $self->pointer;
    my $first;
    for my $handle (values %{$self->{handles}}) {
        eval { $handle->wait; 1 } or $first //= $@;
    }
    delete $open{$pointer};
    delete $self->{pointer};
    my $status = AI::KVStored::Library::kv_close($pointer);
    die $first if defined $first;
    die_of($status, undef) if $status != 0;
    return;
}

sub DESTROY
{
    my ($self) = @_;
    local ($@, $!, $?);
    return if !defined $self->{pointer} || $self->{process} != $$;
    return if ${^GLOBAL_PHASE} eq 'DESTRUCT'; # END has closed what was open
    eval { $self->close; 1 } or warn "AI::KVStored: $@\n";
    return;
}

sub CLONE_SKIP { return 1 } # threads of Perl do not share a store

END {
    local $?;
    for my $store (grep { defined } values %open) {
        $store->DESTROY;
    }
}

# ------------------------------------------------------------------ init, push, pull

# Waits, or gives the handle, as the caller has asked for.
sub finish
{
    my ($self, $pointer, $then, $keep, $wait) = @_;
    my $handle = AI::KVStored::Handle->new(
        store   => $self,
        pointer => unpack('J', $pointer),
        then    => $then,
        keep    => $keep
    );
    if ($wait // 1) {
        $handle->wait;
        return;
    }
    $self->{handles}{$handle->{pointer}} = $handle;
    return $handle;
}

# Fills outs from the PDLs that the library has written to.
sub filler
{
    my ($outs, $from) = @_;
    my @to      = map { @$_ } @$outs;
    my @written = map { @$_ } @$from;
    return sub { AI::KVStored::Array::fill($to[$_], $written[$_]) for 0 .. $#to };
}

sub init
{
    my ($self, $key, $value) = @_;
    my ($keys, $lists) = group('init', $key, $value);
    AI::KVStored::Error->invalid('init: one value a key') if grep { @$_ != 1 } @$lists;
    my @keep;
    my $names = pack_keys($keys, \@keep);
    if (have_rows('init', $lists)) {
        my ($rows) = pack_rows($lists, \@keep);
        $self->check(
            AI::KVStored::Library::kv_init_row_sparse($self->pointer, $names, $rows, scalar @$keys)
        );
        return;
    }
    my ($values) = pack_arrays($lists, \@keep);
    $self->check(AI::KVStored::Library::kv_init($self->pointer, $names, $values, scalar @$keys));
    return;
}

sub push ## no critic (MXNet's name)
{
    my ($self, $key, $value, @rest) = @_;
    my %given = named('push', ['priority'], @rest);
    my ($keys, $lists) = group('push', $key, $value);
    my @keep;
    my $names    = pack_keys($keys, \@keep);
    my $priority = $given{priority} // 0;
    my $status;
    if (have_rows('push', $lists)) {
        my ($rows, $counts) = pack_rows($lists, \@keep);
        $status = AI::KVStored::Library::kv_push_row_sparse($self->pointer, $names, $rows,
            $counts, scalar @$keys, $priority, undef);
    } else {
        my ($values, $counts) = pack_arrays($lists, \@keep);
        $status = AI::KVStored::Library::kv_push($self->pointer, $names, $values, $counts,
            scalar @$keys, $priority, 0, undef);
    }
    my $error = delete $self->{updater_error};
    die $error if defined $error;
    $self->check($status);
    return;
}

# RowSparse outs are left as they are, as MXNet does, or take all rows without ignore_sparse.
sub pull
{
    my ($self, $key, @rest) = @_;
    my %given = named('pull', [qw(out priority ignore_sparse wait)], @rest);
    my ($keys, $outs) = group('pull', $key, $given{out});
    if (!($given{ignore_sparse} // 1) && have_rows('pull', $outs)) {
        my @ids = map { PDL->sequence(PDL::longlong(), ($_->dims)[-1]) } map { @$_ } @$outs;
        return $self->row_sparse_pull(
            $key, %given{grep { exists $given{$_} } qw(out priority wait)},
            row_ids => \@ids
        );
    }
    my @dense = map { [grep { AI::KVStored::Array::is_array($_) } @$_] } @$outs;
    my @asked = grep { @{$dense[$_]} } 0 .. $#dense;
    ($keys, $outs) = ([@$keys[@asked]], [@dense[@asked]]);
    my @keep;
    my $names  = pack_keys($keys, \@keep);
    my $from   = receivers($outs);
    my $handle = pack 'J', 0;
    my ($arrays, $counts) = pack_arrays($from, \@keep);
    $self->check(
        AI::KVStored::Library::kv_pull(
            $self->pointer, $names, $arrays, $counts, scalar @$keys,
            $given{priority} // 0, scalar_to_pointer($handle)
        )
    );
    return $self->finish($handle, filler($outs, $from), \@keep, $given{wait});
}

sub pushpull
{
    my ($self, $key, $value, @rest) = @_;
    my %given = named('pushpull', [qw(out priority wait)], @rest);
    my ($keys, $lists) = group('pushpull', $key, $value);
    my (undef, $outs) = group('pushpull', $key, $given{out} // $value);
    AI::KVStored::Error->invalid('pushpull is for dense values; push, then row_sparse_pull')
        if have_rows('pushpull', [@$lists, @$outs]);
    my @keep;
    my $names  = pack_keys($keys, \@keep);
    my $from   = receivers($outs);
    my $handle = pack 'J', 0;
    my ($values, $value_counts) = pack_arrays($lists, \@keep);
    my ($arrays, $counts)       = pack_arrays($from,  \@keep);
    my $status = AI::KVStored::Library::kv_pushpull(
        $self->pointer, $names, $values, $value_counts, $arrays, $counts,
        scalar @$keys, $given{priority} // 0, 0, scalar_to_pointer($handle)
    );
    my $error = delete $self->{updater_error};
    $self->check($status);
    my $made = $self->finish($handle, filler($outs, $from), \@keep, $given{wait});
    die $error if defined $error;
    return $made;
}

sub broadcast
{
    my ($self, $key, $value, @rest) = @_;
    my %given = named('broadcast', [qw(out priority)], @rest);
    group('broadcast', $key, $given{out}); # nothing is stored where the call is wrong
    $self->init($key, $value);
    return $self->pull($key, %given);
}

# One list of row ids counts for all outs; else there is one for each.
sub row_sparse_pull
{
    my ($self, $key, @rest) = @_;
    my %given = named('row_sparse_pull', [qw(out priority row_ids wait)], @rest);
    my ($keys, $lists) = group('row_sparse_pull', $key, $given{out});
    AI::KVStored::Error->invalid('row_sparse_pull: an out is a RowSparse')
        if !have_rows('row_sparse_pull', $lists);
    my @outs = map { @$_ } @$lists;
    my @ids  = ref $given{row_ids} eq 'ARRAY' ? @{$given{row_ids}} : ($given{row_ids});
    AI::KVStored::Error->invalid('row_sparse_pull: row_ids is one PDL, or one for each out')
        if (@ids != 1 && @ids != @outs) || grep { !AI::KVStored::Array::is_array($_) } @ids;
    my @from = map { $outs[$_]->with_room($ids[@ids > 1 ? $_ : 0]->nelem) } 0 .. $#outs;
    my @keep = @from;
    my $names  = pack_keys($keys, \@keep);
    my $rows   = join '', map { $_->view(\@keep) } @from;
    my $counts = pack_counts($lists, \@keep);
    my ($wanted) = pack_arrays([\@ids], \@keep);
    my $handle = pack 'J', 0;
    $self->check(
        AI::KVStored::Library::kv_row_sparse_pull(
            $self->pointer, $names, scalar_to_pointer($rows), $counts, $wanted, scalar @ids,
            scalar @$keys, $given{priority} // 0, scalar_to_pointer($handle)
        )
    );
    my @found = map { AI::KVStored::RowSparse::count_in($rows, $_) } 0 .. $#outs;
    my $then = sub { $outs[$_]->fill($from[$_], $found[$_]) for 0 .. $#outs };
    return $self->finish($handle, $then, \@keep, $given{wait});
}

# Everything asked for has ended: open handles, and pushes, whose first failure is told here.
sub wait ## no critic (the name is that of every client)
{
    my ($self) = @_;
    my $first;
    for my $handle (values %{$self->{handles}}) {
        eval { $handle->wait; 1 } or $first //= $@;
    }
    $self->check(AI::KVStored::Library::kv_wait($self->pointer, FOREVER));
    die $first if defined $first;
    return;
}

# ------------------------------------------------------------------ optimizer, updater

# A number that was read as a string is a number all the same, except the name of the rules.
sub as_data
{
    my ($value, $name) = @_;
    return {map { $_ => as_data($value->{$_}, $_) } keys %$value} if ref $value eq 'HASH';
    return [map { as_data($_, $name) } @$value] if ref $value eq 'ARRAY';
    return $value if !defined $value || ref $value;
    return "$value" if $name eq 'rules' || $name eq 'name' || !looks_like_number($value);
    return $value + 0;
}

sub as_json
{
    my ($data) = @_;
    return JSON::PP->new->canonical->utf8->encode(as_data($data, ''));
}

sub set_optimizer
{
    my ($self, $name, @rest) = @_;
    my $optimizer = ref $name eq 'HASH' || !defined $name ? $name : {name => $name, @rest};
    my $json = defined $optimizer ? as_json($optimizer) : undef;
    $self->check(AI::KVStored::Library::kv_set_optimizer($self->pointer, $json));
    return;
}

# The optimizer as a hash, or undef.
sub optimizer
{
    my ($self) = @_;
    my $out = pack 'J', 0;
    $self->check(
        AI::KVStored::Library::kv_get_optimizer($self->pointer, scalar_to_pointer($out)));
    my $memory = unpack 'J', $out;
    my $json = AI::KVStored::Library::load()->cast(opaque => string => $memory);
    AI::KVStored::Library::kv_free($memory);
    return $json eq '' ? undef : JSON::PP->new->utf8->decode($json);
}

sub set_gradient_compression
{
    my ($self, $compression) = @_;
    AI::KVStored::Error->invalid('compression is a hash: {type => "2bit", threshold => 0.5}')
        if ref $compression ne 'HASH';
    $self->check(
        AI::KVStored::Library::kv_set_gradient_compression($self->pointer, as_json($compression)));
    return;
}

sub save_optimizer_states
{
    my ($self, $path, @rest) = @_;
    unshift @rest, 'dump_optimizer' if @rest % 2;
    my %given = @rest;
    AI::KVStored::Error->invalid(
        'save_optimizer_states takes a path, dump_optimizer and progress')
        if !defined $path || grep { !/^(dump_optimizer|progress)$/ } keys %given;
    return $self->move_states(
        $given{progress},
        sub {
            AI::KVStored::Library::kv_save_optimizer_states($self->pointer, $path,
                $given{dump_optimizer} ? 1 : 0);
        }
    );
}

sub load_optimizer_states
{
    my ($self, $path, @rest) = @_;
    my %given = @rest % 2 ? (nothing => 1) : @rest;
    AI::KVStored::Error->invalid('load_optimizer_states takes a path and progress')
        if !defined $path || grep { $_ ne 'progress' } keys %given;
    return $self->move_states($given{progress},
        sub { AI::KVStored::Library::kv_load_optimizer_states($self->pointer, $path) });
}

# The call, with $progress->($done_bytes, $total_bytes) meanwhile. Where that dies it is called no
# more, and the call dies with its words once it has ended.
sub move_states
{
    my ($self, $progress, $call) = @_;
    AI::KVStored::Error->invalid('progress is a code reference')
        if defined $progress && ref $progress ne 'CODE';
    my $error;
    my $closure = defined $progress
        ? AI::KVStored::Library::closure(
            sub {
                return if defined $error;
                local $self->{inside} = 'progress';
                eval { $progress->(@_[0, 1]); 1 } or $error = $@ || 'progress has died';
            }
        )
        : undef;
    AI::KVStored::Library::kv_set_progress($self->pointer, $closure, undef);
    my $status = $call->();
    my $failed = $status == 0 ? undef : eval { $self->check($status); 1 } ? undef : $@;
    AI::KVStored::Library::kv_set_progress($self->pointer, undef, undef);
    die $error if defined $error;
    die $failed if defined $failed;
    return;
}

# Nothing may die through C: the first error is kept, and told by the push that it happened in.
sub call_updater
{
    my ($self, $updater, $name, $input, $stored) = @_;
    return if defined $self->{updater_error};
    my $key = AI::KVStored::Library::load()->cast(opaque => string => $name);
    utf8::decode($key);
    local $self->{inside} = 'an updater'; # the library would wait for itself
    eval {
        my $value = AI::KVStored::Array::from_memory($stored);
        $updater->($key, AI::KVStored::Array::from_memory($input), $value);
        AI::KVStored::Array::to_memory($stored, $value);
        1;
    } or $self->{updater_error} = $@ || 'the updater has died';
    return;
}

sub set_updater
{
    my ($self, $updater) = @_;
    AI::KVStored::Error->invalid('an updater is a code reference')
        if defined $updater && ref $updater ne 'CODE';
    weaken(my $store = $self);
    my $closure = defined $updater
        ? AI::KVStored::Library::closure(
            sub { $store->call_updater($updater, @_[0, 2, 3]) if $store })
        : undef;
    $self->check(AI::KVStored::Library::kv_set_updater($self->pointer, $closure, undef));
    $self->{updater} = $closure; # as long as the library may call it
    return;
}

# ------------------------------------------------------------------ the rest

sub type        { return AI::KVStored::Library::kv_type($_[0]->pointer) }
sub rank        { return AI::KVStored::Library::kv_rank($_[0]->pointer) }
sub num_workers { return AI::KVStored::Library::kv_num_workers($_[0]->pointer) }

# Seconds; the store's default without any.
sub barrier
{
    my ($self, $timeout) = @_;
    $self->check(
        AI::KVStored::Library::kv_barrier($self->pointer, int(($timeout // 0) * MILLISECONDS)));
    return;
}

sub send_command
{
    my ($self, $head, $body) = @_;
    AI::KVStored::Error->invalid('the head of a command is a whole number')
        if !defined $head || $head !~ /\A-?[0-9]+\z/;
    $self->check(AI::KVStored::Library::kv_send_command($self->pointer, $head, $body // ''));
    return;
}

sub is_capable
{
    my ($self, $capability) = @_;
    my $out = pack 'i', 0;
    $self->check(
        AI::KVStored::Library::kv_is_capable($self->pointer, $capability, scalar_to_pointer($out))
    );
    return unpack 'i', $out;
}

# What this store's client has counted, as a hash.
sub statistics
{
    my ($self) = @_;
    my $out = "\0" x AI::KVStored::Library::STRUCT_BYTES;
    AI::KVStored::Library::kv_count($self->pointer, scalar_to_pointer($out));
    my %is;
    @is{@counters} = unpack 'Q' . @counters, $out;
    return \%is;
}

# MXNet's own names of what it does not promise.
{
    no strict 'refs';
    *{__PACKAGE__ . '::_barrier'}                  = \&barrier;
    *{__PACKAGE__ . '::_set_updater'}              = \&set_updater;
    *{__PACKAGE__ . '::_send_command_to_servers'} = \&send_command;
}

1;
