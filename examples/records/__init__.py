"""Problems with published errors, solved from their authors' settings and compared with them."""
