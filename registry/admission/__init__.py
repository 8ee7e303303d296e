"""Admission: keeps bad adapters out.  Each of a set of small rules looks at a candidate and yields findings."""
