package perl_support;

# A server of one's own for the tests in Perl; skipped as a whole where a package is missing.

use strict;
use warnings;

use File::Temp ();
use JSON::PP ();
use POSIX ();
use Time::HiRes ();

use constant { SKIPPED => 77, START_SECONDS => 20 };

sub import
{
    my ($class, @modules) = @_;
    for my $module (@modules) {
        next if eval "require $module; 1";
        print "skipped: $module is not installed (libffi-platypus-perl, pdl)\n";
        exit SKIPPED;
    }
    my $source = $ENV{KVS_SOURCE_DIR} //= '.';
    my $binary = $ENV{KVS_BINARY_DIR} // "$source/build";
    unshift @INC, "$source/client/perl/lib";
    $ENV{KVSTORE_LIBRARY} //= "$binary/lib/libkvstore.so";
    $ENV{KVSTORED}        //= "$binary/bin/kvstored";
    return;
}

# A kvstored on free ports, with its addresses in {grpc} and {http}.
sub start
{
    my ($class, @flags) = @_;
    my $folder = File::Temp->newdir('kvs-perl-XXXXXX', TMPDIR => 1);
    my $file   = "$folder/address";
    my $child  = fork // die "fork: $!";
    if ($child == 0) {
        open STDERR, '>', "$folder/log" or POSIX::_exit(1);
        open STDOUT, '>&', \*STDERR or POSIX::_exit(1);
        exec $ENV{KVSTORED}, '--grpc-address', '127.0.0.1:0', '--http-address', '127.0.0.1:0',
            '--address-file', $file, '--drain-delay', '0s', @flags
            or POSIX::_exit(127);
    }
    my $self = bless {folder => $folder, child => $child}, $class;
    for (1 .. START_SECONDS * 100) {
        last if -s $file;
        die "the server did not start\n" if waitpid($child, POSIX::WNOHANG()) == $child;
        Time::HiRes::sleep(0.01);
    }
    open my $in, '<', $file or die "the server did not start\n";
    my $addresses = JSON::PP::decode_json(join '', <$in>);
    close $in;
    @$self{qw(grpc http)} = @$addresses{qw(grpc http)};
    return $self;
}

# SIGTERM; its exit code.
sub stop
{
    my ($self) = @_;
    my $child = delete $self->{child} // return;
    kill TERM => $child;
    waitpid $child, 0;
    return $? >> 8;
}

sub DESTROY
{
    my ($self) = @_;
    local $?;
    $self->stop;
    return;
}

1;
