"""TODO pgrunbook.changes"""
