"""What several files of tests share. A test imports from here, and from no other test."""
