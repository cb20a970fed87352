"""The intermediate representation: modules, their text form, checks, rewriting and interpretation."""
