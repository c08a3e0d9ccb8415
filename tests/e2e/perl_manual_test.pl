# The manual of AI::KVStored: it is well formed, its synopsis runs, and the methods are those that
# it names and that MXNet's page has.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use perl_support qw(PDL FFI::Platypus JSON::PP Test::More Pod::Checker);

use Pod::Checker ();
use Test::More;

use AI::KVStored;

sub slurp
{
    my ($path) = @_;
    open my $in, '<', $path or die "$path: $!";
    return join '', <$in>;
}

(my $manual = $INC{'AI/KVStored.pm'}) =~ s/pm\z/pod/;
my $text = slurp($manual);

my $checker = Pod::Checker->new(-warnings => 1);
my $said    = '';
open my $out, '>', \$said or die;
$checker->parse_from_file($manual, $out);
is($checker->num_errors + $checker->num_warnings, 0, 'well formed') or diag $said;

my ($synopsis) = $text =~ /=head1 SYNOPSIS\n(.*?)=head1/s;
my $server = perl_support->start;
is($synopsis =~ s/127\.0\.0\.1:9400/$server->{grpc}/g, 1, 'the synopsis names a server');
my $program = "package synopsis; use strict; no warnings 'redefine';\n"
    . join '', map { "{$_}\n" } split /^(?=    my \$kv)/m, $synopsis;
$program =~ s/\{\s*use PDL;\s*use AI::KVStored;\s*\}/use PDL; use AI::KVStored;/;
ok(eval "$program; 1", 'the synopsis runs') or diag $@;
is($server->stop, 0, 'the server ends well');

my ($part) = $text =~ /^=head1 METHODS\n(.*?)^=head1/ms;
my @methods = $part =~ /^=head2 (\w+)$/mg;
ok(AI::KVStored->can($_), "$_ is there") for @methods;
my %told = map { $_ => 1 } @methods, $text =~ /C<(_\w+)>/g;
ok($told{$_} && AI::KVStored->can($_), "$_ of MXNet's page is there and told of")
    for qw(create init push pull row_sparse_pull set_gradient_compression set_optimizer type rank
    num_workers save_optimizer_states load_optimizer_states _set_updater _barrier
    _send_command_to_servers);

ok(AI::KVStored::RowSparse->can($_) && $text =~ /\b$_\b/, "$_ of rows is there and told of")
    for qw(new zeros from_dense indices values dims type aspdl);

my ($version) = slurp("$ENV{KVS_SOURCE_DIR}/CMakeLists.txt") =~ /^project\(.*VERSION ([0-9.]+)/m;
is($AI::KVStored::VERSION, $version, 'the version is that of the project');

done_testing;
