"""Labels: files of them, keys and edits, what is checked, and the targets that training makes of them."""
