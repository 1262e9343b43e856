"""One pass a file; the order in which they run stands in `compiler/driver.py`."""
