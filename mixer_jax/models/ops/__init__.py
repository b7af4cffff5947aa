"""Operations that XLA runs slowly, rewritten to be fast; each file says where and by how much."""
