package AI::KVStored::Library;

# libkvstore by FFI: its functions under their own names, loaded once.
#
# Arrays of C structs are packed strings; what they point to has to live as long as the call. The
# layouts are those of client/include/kvstore/kvstore.h on 64 bit machines.

use strict;
use warnings;

use Config;
use FFI::CheckLib ();
use FFI::Platypus 2.00;
use FFI::Platypus::Buffer qw(scalar_to_pointer);

# A value by itself and a pair of words are passed alike where pointers have 64 bits (System V
# AMD64, AAPCS64): kv_key, the first argument of an updater, stands as its two members.
use constant UPDATER => '(opaque,sint64,opaque,opaque,opaque)->void';

use constant PROGRESS => '(uint64,uint64,opaque)->void';

# Room for structs that the library fills, more than any of them has.
use constant STRUCT_BYTES => 512;

my %functions = (
    kv_status_reason    => [['int']                                                   => 'string'],
    kv_status_grpc_code => [['int']                                                   => 'int'],
    kv_status_advice    => [['int']                                                   => 'string'],
    kv_options_init     => [['opaque']                                                => 'void'],
    kv_create           => [[qw(string string opaque opaque opaque size_t)]           => 'int'],
    kv_close            => [['opaque']                                                => 'int'],
    kv_last_error       => [['opaque']                                                => 'string'],
    kv_type             => [['opaque']                                                => 'string'],
    kv_rank             => [['opaque']                                                => 'uint32'],
    kv_num_workers      => [['opaque']                                                => 'uint32'],
    kv_init             => [[qw(opaque opaque opaque size_t)]                         => 'int'],
    kv_push             => [[qw(opaque opaque opaque opaque size_t int uint opaque)]  => 'int'],
    kv_pull             => [[qw(opaque opaque opaque opaque size_t int opaque)]       => 'int'],
    kv_pushpull         => [
        [qw(opaque opaque opaque opaque opaque opaque size_t int uint opaque)] => 'int'
    ],
    kv_init_row_sparse  => [[qw(opaque opaque opaque size_t)]                         => 'int'],
    kv_push_row_sparse  => [[qw(opaque opaque opaque opaque size_t int opaque)]       => 'int'],
    kv_row_sparse_pull  => [
        [qw(opaque opaque opaque opaque opaque size_t size_t int opaque)] => 'int'
    ],
    kv_handle_wait      => [[qw(opaque opaque uint64)]                                => 'int'],
    kv_handle_is_done   => [[qw(opaque opaque)]                                       => 'int'],
    kv_wait             => [[qw(opaque uint64)]                                       => 'int'],
    kv_set_optimizer    => [[qw(opaque string)]                                       => 'int'],
    kv_get_optimizer    => [[qw(opaque opaque)]                                       => 'int'],
    kv_free             => [['opaque']                                                => 'void'],
    kv_set_gradient_compression => [[qw(opaque string)]                               => 'int'],
    kv_save_optimizer_states    => [[qw(opaque string int)]                           => 'int'],
    kv_load_optimizer_states    => [[qw(opaque string)]                               => 'int'],
    kv_set_progress     => [['opaque', PROGRESS, 'opaque']                            => 'void'],
    kv_set_updater      => [['opaque', UPDATER, 'opaque']                             => 'int'],
    kv_barrier          => [[qw(opaque uint64)]                                       => 'int'],
    kv_send_command     => [[qw(opaque int string)]                                   => 'int'],
    kv_is_capable       => [[qw(opaque string opaque)]                                => 'int'],
    kv_count            => [[qw(opaque opaque)]                                       => 'void'],
);

my $ffi;

# KVSTORE_LIBRARY names the file; without it the system's library is taken.
sub path
{
    return $ENV{KVSTORE_LIBRARY} if defined $ENV{KVSTORE_LIBRARY};
    my $found = FFI::CheckLib::find_lib(lib => 'kvstore');
    die "libkvstore.so was not found: build it, and name it by KVSTORE_LIBRARY.\n" if !$found;
    return $found;
}

sub load
{
    return $ffi if defined $ffi;
    die "AI::KVStored needs pointers of 64 bits.\n" if $Config{ptrsize} != 8;
    my $path = path();
    my $new = FFI::Platypus->new(api => 2, lib => $path);
    for my $name (sort keys %functions) {
        die "$path cannot be loaded, or is no libkvstore of this version: it has no $name.\n"
            if !defined $new->find_symbol($name);
        $new->attach($name => @{$functions{$name}});
    }
    return $ffi = $new;
}

# A pointer to the bytes of a packed string, which is to stay as it is; undef for undef.
sub pointer
{
    return defined $_[0] ? scalar_to_pointer($_[0]) : undef;
}

sub closure
{
    my ($code) = @_;
    return load()->closure($code);
}

1;
