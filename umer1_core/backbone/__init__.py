"""The student as every model stage sees it: loaded, fed, run and read in one place (UME-R1 section 3.2)."""
