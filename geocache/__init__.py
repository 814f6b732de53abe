"""Knowledge distillation from a cache: run the teacher once, train any number of students."""

__version__ = "0.1.0"
