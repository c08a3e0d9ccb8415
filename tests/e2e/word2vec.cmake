# row_sparse embeddings of the words of a real text: a part of it here, the whole in
# examples/word2vec/README.md.
kvs_e2e(NAME e2e_word2vec SCRIPT word2vec_test.py TIMEOUT 240 ARGUMENTS $<TARGET_FILE:word2vec>)
