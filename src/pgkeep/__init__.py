"""pgkeep backs up PostgreSQL and proves that it can bring it back."""

__version__ = "0.1.0"
