# The examples of MXNet's KVStore page in Perl, with its numbers, through AI::KVStored: embedded and
# at a server. What differs from the page is the array library: ones(3, 2) of PDL has 2 rows of 3.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use perl_support qw(PDL FFI::Platypus HTTP::Tiny JSON::PP Test::More);

use PDL;
use Test::More;

use AI::KVStored;

my $server;
my $type;

# A fresh store of the type that runs.
sub store
{
    return AI::KVStored->create($type) if $type !~ /dist/;
    $server = perl_support->start;
    return AI::KVStored->create($type, $server->{grpc});
}

sub done
{
    my ($kv) = @_;
    $kv->close;
    is($server->stop, 0, 'the server ends well') if $server;
    undef $server;
    return;
}

# All numbers of a PDL are one, and it has the page's shape.
sub is_all
{
    my ($pdl, $number, $name) = @_;
    is(join(',', $pdl->dims), '3,2', "$name: shape");
    is(join(',', $pdl->list), join(',', ($number) x 6), $name);
    return;
}

sub value { return (ones(float, 3, 2) * $_[0])->float }

# What a call dies with.
sub reason_of
{
    my ($code) = @_;
    return eval { $code->(); 1 } ? 'nothing' : ref $@ ? $@->reason : $@;
}

my %both = (
    'init and pull of one key' => sub {
        my ($kv) = @_;
        my $a = zeroes(float, 3, 2);
        $kv->init(3, value(2));
        $kv->pull(3, out => $a);
        is_all($a, 2, 'pulled');
        is("$a", "\n[\n [2 2 2]\n [2 2 2]\n]\n", 'printed as on the page');
    },
    'init and pull of a list of keys' => sub {
        my ($kv) = @_;
        my $keys = [5, 7, 9];
        $kv->init($keys, [map { value(1) } 0 .. @$keys - 1]);
        my $b = [map { zeroes(float, 3, 2) } 0 .. @$keys - 1];
        $kv->pull($keys, out => $b);
        is_all($_, 1, 'pulled') for @$b;
    },
    'push replaces' => sub {
        my ($kv) = @_;
        my $a = zeroes(float, 3, 2);
        $kv->init(3, value(2));
        $kv->push(3, value(8));
        $kv->pull(3, out => $a);
        is_all($a, 8, 'pulled');
    },
    'push of four devices is their sum' => sub {
        my ($kv) = @_;
        my $a = zeroes(float, 3, 2);
        $kv->init(3, value(2));
        $kv->push(3, [map { value(1) } 0 .. 3]);
        $kv->pull(3, out => $a);
        is_all($a, 4, 'pulled');
    },
    'push of a list of keys' => sub {
        my ($kv) = @_;
        my $keys = [5, 7, 9];
        $kv->init($keys, [map { value(3) } @$keys]);
        $kv->push($keys, [map { value(1) } @$keys]);
        my $b = [map { zeroes(float, 3, 2) } @$keys];
        $kv->pull($keys, out => $b);
        is_all($b->[1], 1, 'pulled');
    },
    'push and pull of a list of keys from and into four devices' => sub {
        my ($kv) = @_;
        my $keys = [5, 7, 9];
        $kv->init($keys, [map { value(3) } @$keys]);
        my $b = [map { [map { value(1) } 0 .. 3] } @$keys];
        $kv->push($keys, $b, priority => -1);
        $kv->pull($keys, out => $b, priority => -1);
        is_all($_, 4, 'pulled') for map { @$_ } @$b;
    },
    'pull into four devices' => sub {
        my ($kv) = @_;
        $kv->init(3, value(2));
        my $b = [map { value(1) } 0 .. 3];
        $kv->pull(3, out => $b);
        is_all($_, 2, 'pulled') for @$b;
    },
    'type, rank, num_workers, barrier and commands' => sub {
        my ($kv) = @_;
        is($kv->type, $type, 'type');
        is($kv->rank, 0, 'rank');
        is($kv->num_workers, 1, 'num_workers');
        ok($kv->is_capable('optimizer'), 'is_capable');
        $kv->_barrier;
        $kv->_send_command_to_servers(7, 'hello');
        is(reason_of(sub { $kv->_send_command_to_servers('x', '') }), 'INVALID_FIELD', 'head');
    },
    'set_optimizer' => sub {
        my ($kv) = @_;
        my $a = zeroes(float, 3, 2);
        $kv->init('w', value(2));
        is($kv->optimizer, undef, 'none at first');
        $kv->set_optimizer('sgd', learning_rate => '0.5');
        $kv->set_optimizer({name => 'sgd', learning_rate => 0.5});
        is($kv->optimizer->{learning_rate}, 0.5, 'given back');
        $kv->push('w', value(1));
        $kv->pull('w', out => $a);
        is_all($a, 1.5, 'updated');
        $kv->pushpull('w', value(1), out => $a);
        is_all($a, 1, 'pushpull');
        is(reason_of(sub { $kv->set_optimizer('sgdd') }), 'INVALID_FIELD', 'unknown');
    },
    'pushpull without out, broadcast' => sub {
        my ($kv) = @_;
        my $pair = [zeroes(float, 3, 2), zeroes(float, 3, 2)];
        $kv->broadcast(3, value(7), $pair);
        is_all($_, 7, 'broadcast') for @$pair;
        my $values = [value(1), value(2)];
        $kv->pushpull(3, $values);
        is_all($_, 3, 'pushpull in place') for @$values;
    },
    'optimizer states' => sub {
        my ($kv) = @_;
        my $folder = File::Temp->newdir;
        my ($a, $b) = (zeroes(float, 3, 2), zeroes(float, 3, 2));
        $kv->init('w', value(2));
        $kv->set_optimizer('sgd', learning_rate => 1, momentum => 0.5);
        $kv->push('w', value(1));
        $kv->save_optimizer_states("$folder/states");
        $kv->save_optimizer_states("$folder/whole", dump_optimizer => 1);
        ok(-s "$folder/whole" > -s "$folder/states", 'with the optimizer it is larger');
        $kv->push('w', value(1));
        $kv->pull('w', out => $a);
        is_all($a, -0.5, 'momentum');
        $kv->load_optimizer_states("$folder/states");
        $kv->push('w', value(1));
        $kv->pull('w', out => $b);
        is_all($b, -2, 'the momentum of the file');
        $kv->set_optimizer(undef);
        $kv->load_optimizer_states("$folder/whole");
        is($kv->optimizer->{momentum}, 0.5, 'the optimizer of the file');
        is(reason_of(sub { $kv->load_optimizer_states("$folder/none") }), 'IO_ERROR', 'no file');
        is(reason_of(sub { $kv->save_optimizer_states }), 'INVALID_FIELD', 'no path');
        my @seen;
        my $bytes = -s "$folder/whole";
        $kv->load_optimizer_states("$folder/whole", progress => sub { push @seen, "@_" });
        is($seen[-1], "$bytes $bytes", 'progress of a load');
        @seen = ();
        $kv->save_optimizer_states("$folder/again", progress => sub { push @seen, "@_" });
        $bytes = -s "$folder/again";
        is($seen[-1], "$bytes $bytes", 'and of a save');
        my $calls = 0;
        my $dies  = sub { $calls++; die "enough\n" };
        is(reason_of(sub { $kv->load_optimizer_states("$folder/whole", progress => $dies) }),
            "enough\n", 'what progress dies with is told');
        is($calls, 1, 'and it is called no more');
        my $rank = sub { $kv->rank };
        is(reason_of(sub { $kv->load_optimizer_states("$folder/whole", progress => $rank) }),
            'INVALID_FIELD', 'progress does not call its store');
        is(reason_of(sub { $kv->load_optimizer_states("$folder/whole", progress => 1) }),
            'INVALID_FIELD', 'it is code');
        $kv->load_optimizer_states("$folder/whole");
        is($calls, 1, 'and of one call alone');
    },
    'row_sparse_pull' => sub {
        my ($kv) = @_;
        $kv->init('3', AI::KVStored::RowSparse->from_dense(ones(float, 3, 3)));
        my $a = AI::KVStored::RowSparse->zeros(float, 3, 3);
        my %rows = ('0 2' => [0, 2], '2' => [2, 2], '0 1' => [1, 0], '' => []);
        my %want = (
            '0 2' => "[1 1 1]\n [0 0 0]\n [1 1 1]",
            '2' => "[0 0 0]\n [0 0 0]\n [1 1 1]",
            '0 1' => "[1 1 1]\n [1 1 1]\n [0 0 0]",
            '' => "[0 0 0]\n [0 0 0]\n [0 0 0]",
        );
        for my $name (sort keys %rows) {
            $kv->row_sparse_pull('3', out => $a, row_ids => pdl(longlong, $rows{$name}));
            is($a->aspdl . '', "\n[\n $want{$name}\n]\n", "rows [$name]: as on the page");
            is(join(' ', $a->indices->list), $name, 'its indices');
        }
        my $left = zeroes(float, 3, 3);
        my $rows = AI::KVStored::RowSparse->zeros(float, 3, 3);
        $kv->pull('3', out => [$a, $left]);
        is($a->indices->nelem, 1, 'pull leaves a RowSparse as it is');
        is($left->sum, 9, 'and fills what is dense');
        $kv->pull('3', out => $a, ignore_sparse => 0);
        is($a->aspdl->sum, 9, 'or takes all rows');
        is(reason_of(sub { $kv->row_sparse_pull('3', out => $left, row_ids => pdl(1)) }),
            'INVALID_FIELD', 'a dense out');
        is(reason_of(sub { $kv->row_sparse_pull('3', out => $a) }), 'INVALID_FIELD', 'no ids');
        isnt(reason_of(sub { $kv->row_sparse_pull('3', out => $a, row_ids => pdl(longlong, 3)) }),
            'nothing', 'a row that is not there');
    },
    'push of rows, pulled into two by two lists of ids' => sub {
        my ($kv) = @_;
        my @outs = map { AI::KVStored::RowSparse->zeros(double, 2, 4) } 0 .. 1;
        $kv->init('w', AI::KVStored::RowSparse->zeros(double, 2, 4));
        $kv->set_optimizer('sgd', learning_rate => 1);
        my $gradient = AI::KVStored::RowSparse->new(
            indices => pdl(3, 1, 3), values => pdl([[1, 2], [3, 4], [5, 6]]), dims => [2, 4]);
        $kv->push('w', [$gradient, $gradient]);
        my $handle = $kv->row_sparse_pull('w', wait => 0, out => \@outs,
            row_ids => [pdl(3, 0), pdl(byte, [1])]);
        $handle->wait;
        is(join(' ', $outs[0]->aspdl->list), '0 0 0 0 0 0 -12 -16', 'first');
        is(join(' ', $outs[0]->indices->list), '0 3', 'in ascending order');
        is(join(' ', $outs[1]->indices->list, $outs[1]->values->list), '1 -6 -8', 'second');
        is_deeply([AI::KVStored::RowSparse->from_dense($outs[0]->aspdl)->values->list], [-12, -16],
            'from_dense takes the rows that are not zero');
        is(
            reason_of(
                sub {
                    AI::KVStored::RowSparse->new(
                        indices => pdl(1), values => zeroes(3, 1), dims => [2, 4]);
                }
            ),
            'INVALID_FIELD', 'values of another size'
        );
        $gradient->values->reshape(2, 0);
        is(reason_of(sub { $kv->push('w', $gradient) }), 'INVALID_FIELD', 'values that were cut');
    },
    'outs that are slices, of other types, and waited for later' => sub {
        my ($kv) = @_;
        my $all = zeroes(float, 4, 2);
        $kv->init('w', sequence(float, 3, 2));
        my $handle = $kv->pull('w', out => $all->slice('1:3,:'), wait => 0);
        $handle->wait;
        $handle->wait;
        ok($handle->is_done, 'done');
        is("$all", "\n[\n [0 0 1 2]\n [0 3 4 5]\n]\n", 'the slice is filled');
        my @later = map { zeroes(float, 3, 2) } 0 .. 1;
        $kv->pull('w', out => $_, wait => 0) for @later;
        $kv->wait;
        is(join(',', $_->list), '0,1,2,3,4,5', 'by wait') for @later;
        $kv->push('w', sequence(float, 2, 3)->xchg(0, 1));
        $kv->pull('w', out => $later[0]);
        is("$later[0]", "\n[\n [0 2 4]\n [1 3 5]\n]\n", 'a value that lies crosswise');
        $kv->init('n', longlong(-5));
        my $n = longlong(0);
        $kv->pull('n', out => $n);
        is("$n", -5, 'a scalar of 64 bits');
    },
    'what is wrong has its reason' => sub {
        my ($kv) = @_;
        my $a = zeroes(float, 3, 2);
        $kv->init([3, 5], [value(2), value(2)]);
        $kv->pull('3', out => $a);
        is_all($a, 2, '3 and "3" are one key');
        is(reason_of(sub { $kv->pull(4, out => $a) }), 'KEY_NOT_FOUND', 'unknown key');
        like("$@", qr/"4"/, 'is named');
        is($@->code, 5, 'with its code of gRPC');
        is($@->next_step, 'Call init for the key first.', 'and its next step');
        my %wrong = (
            'an out of another size' =>
                [INVALID_TENSOR => sub { $kv->pull(3, out => zeroes(float, 2)) }],
            'fewer values than keys' => [INVALID_FIELD => sub { $kv->push([3, 5], [$a]) }],
            'no PDL'         => [INVALID_FIELD => sub { $kv->push(3, 1) }],
            'no out'         => [INVALID_FIELD => sub { $kv->pull(3) }],
            'a PDL of short' => [INVALID_FIELD => sub { $kv->push(3, $a->short) }],
            'another word'   => [INVALID_FIELD => sub { $kv->push(3, $a, prio => 1) }],
            'a key of NUL'   => [INVALID_FIELD => sub { $kv->push("a\0b", $a) }],
            'two values'     => [INVALID_FIELD => sub { $kv->init(6, [$a, $a]) }],
        );
        is(reason_of($wrong{$_}[1]), $wrong{$_}[0], $_) for sort keys %wrong;
        $kv->pull([3, 5], out => [$a, zeroes(float, 3, 2)]);
        is_all($a, 2, 'nothing has changed');
    },
    'after close' => sub {
        my ($kv) = @_;
        my $a = zeroes(float, 3, 2);
        $kv->init(3, value(2));
        my $handle = $kv->pull(3, out => $a, wait => 0);
        my $child = fork // die "fork: $!";
        if ($child == 0) {
            my $reason = reason_of(sub { $kv->rank });
            undef $kv;
            POSIX::_exit($reason eq 'NOT_REGISTERED' ? 0 : 1);
        }
        waitpid $child, 0;
        is($?, 0, 'a child process is refused, and closes nothing');
        $kv->close;
        is_all($a, 2, 'close has waited');
        is(reason_of(sub { $kv->rank }), 'STOPPING', 'a closed store is refused');
        $kv->close;
    },
);

sub run
{
    my %tests = @_;
    for my $name (sort keys %tests) {
        subtest "$type: $name" => sub {
            my $kv = store();
            eval { $tests{$name}->($kv); 1 } or fail("died: $@");
            done($kv);
        };
    }
    return;
}

# The example of two bits, threshold 0.5: what is left out comes with a later push.
my $compression = sub {
    my ($kv) = @_;
    my $a = zeroes(float, 3, 2);
    $kv->set_gradient_compression({type => '2bit', threshold => '0.5'});
    $kv->init(3, value(7));
    $kv->pull(3, out => $a);
    is_all($a, 7, 'init is whole');
    my @pushed = ([0.25, 0], [0.25, 0.5], [-2, -0.5], [0, -0.5]);
    for my $row (@pushed) {
        $kv->push(3, value($row->[0]));
        $kv->pull(3, out => $a);
        is_all($a, $row->[1], "after $row->[0]");
    }
    is(reason_of(sub { $kv->set_gradient_compression({type => '3bit'}) }), 'INVALID_FIELD', 'type');
    is(reason_of(sub { $kv->set_gradient_compression('2bit') }), 'INVALID_FIELD', 'no hash');
};

$type = 'dist_sync';
run(%both);
run(
    'set_gradient_compression' => $compression,
    'updaters are local' => sub {
        my ($kv) = @_;
        is(reason_of(sub { $kv->_set_updater(sub { }) }), 'UNIMPLEMENTED', 'refused');
    },
    'a second, equal init' => sub {
        my ($kv) = @_;
        my $a = zeroes(float, 3, 2);
        $kv->init(3, value(2));
        $kv->init(3, value(5));
        $kv->pull(3, out => $a);
        is_all($a, 2, 'the first stays');
    },
);

$type = 'local';
run(%both);
run(
    '_set_updater' => sub {
        my ($kv) = @_;
        my ($a, $said) = (zeroes(float, 3, 2), '');
        my $update = sub {
            my ($key, $input, $stored) = @_;
            $said .= "update on key: $key\n";
            $stored += $input * 2;
        };
        $kv->init(3, value(4));
        $kv->_set_updater($update);
        $kv->pull(3, out => $a);
        is_all($a, 4, 'before');
        $kv->push(3, value(1));
        is($said, "update on key: 3\n", 'said as on the page');
        $kv->pull(3, out => $a);
        is_all($a, 6, 'after');
        $kv->push(3, [value(1), value(1)]);
        $kv->pull(3, out => $a);
        is_all($a, 10, 'called once with the sum of two devices');
        $kv->_set_updater(sub { die "no more\n" });
        is(reason_of(sub { $kv->push(3, value(1)) }), "no more\n", 'what it dies with is told');
        is(reason_of(sub { $kv->pushpull(3, value(1)) }), "no more\n", 'by pushpull too');
        $kv->_set_updater(sub { $kv->pull(3, out => $a) });
        is(reason_of(sub { $kv->push(3, value(1)) }), 'INVALID_FIELD', 'its own store is shut');
        $kv->pull(3, out => $a);
        is_all($a, 10, 'and nothing has changed');
        $kv->_set_updater(undef);
        $kv->push(3, value(1));
        $kv->pull(3, out => $a);
        is_all($a, 1, 'taken away');
    },
    'a second init is an error' => sub {
        my ($kv) = @_;
        $kv->init(3, value(2));
        is(reason_of(sub { $kv->init(3, value(2)) }), 'KEY_EXISTS', 'refused');
    },
    'a priority has its name' => sub {
        my ($kv) = @_;
        $kv->init(3, value(2));
        ok(!eval { $kv->push(3, value(1), -1); 1 }, 'refused');
        like($@, qr/INVALID_FIELD.* by name: priority => /, 'and told');
    },
);

$type = 'device';
run('set_gradient_compression' => $compression);

subtest 'create' => sub {
    is(AI::KVStored->create('Row_Sparse')->type, 'row_sparse', 'unknown types are local');
    is(reason_of(sub { AI::KVStored->create('dist_sync') }), 'INVALID_FIELD', 'without address');
    is(
        reason_of(
            sub { AI::KVStored->create('dist_sync', '127.0.0.1:1', connect_timeout => 0.3) }
        ),
        'UNAVAILABLE',
        'nobody there'
    );
    is(reason_of(sub { AI::KVStored->create('local', colour => 1) }), 'INVALID_FIELD', 'option');
};

subtest 'a store that nobody closes' => sub {
    my $own = perl_support->start;
    my $a   = zeroes(float, 3, 2);
    {
        my $kv = AI::KVStored->create('dist_sync', $own->{grpc}, rank => 0);
        $kv->init(3, value(2));
        $kv->pull(3, out => $a, wait => 0);
    }
    is_all($a, 2, 'dropped: what is under way is waited for');
    my $program = 'our $kv = AI::KVStored->create("dist_sync", shift, rank => 0); exit 3';
    my @command = ($^X, (map { "-I$_" } @INC), '-MAI::KVStored', '-e', $program);
    is(system(@command, $own->{grpc}) >> 8, 3, 'open at the end of a program');
    my $reply = HTTP::Tiny->new->get("http://$own->{http}/v1/workers");
    is(JSON::PP::decode_json($reply->{content})->{workers}[0]{state}, 'left', 'it said goodbye');
    is($own->stop, 0, 'the server ends well');
};

subtest 'several workers and stores' => sub {
    my $own = perl_support->start('--num-workers', 2);
    my @workers = map { AI::KVStored->create('dist_sync', $own->{grpc}, rank => 1 - $_) } 0 .. 1;
    is($workers[0]->rank, 1, 'the rank that was asked for');
    is($workers[0]->num_workers, 2, 'num_workers');
    $workers[1]->init('w', value(1));
    $workers[0]->init('w', value(9));
    my @outs = map { zeroes(float, 3, 2) } @workers;
    $workers[$_]->push('w', value($_ + 1)) for 0 .. 1;
    $workers[$_]->pull('w', out => $outs[$_]) for 0 .. 1;
    is_all($_, 3, 'the sum of both') for @outs;
    is($workers[0]->statistics->{parts_pushed}, 1, 'statistics');
    my $reply = HTTP::Tiny->new->get("http://$own->{http}/v1/keys/w");
    my $key   = JSON::PP::decode_json($reply->{content});
    is("@{$key->{shape}}", '2 3', 'the shape at the server');
    is(
        reason_of(sub { AI::KVStored->create('dist_sync', $own->{grpc}, store => 'other') }),
        'STORE_NOT_FOUND', 'another store'
    );
    $_->close for @workers;
    is($own->stop, 0, 'the server ends well');
};

done_testing;
