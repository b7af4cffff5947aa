"""Operations that XLA does slowly, written so that it does them fast; each file says what for and by how much."""
