# The Perl client. A sanitizer's library cannot be loaded into the distribution's perl.
if(NOT KVS_SANITIZE)
  kvs_e2e(NAME e2e_perl_seed SCRIPT perl_seed_test.pl TIMEOUT 120)
  kvs_e2e(NAME e2e_perl_manual SCRIPT perl_manual_test.pl)
endif()
