"""The plan in the making: which steps stand for which statement, up and down."""
