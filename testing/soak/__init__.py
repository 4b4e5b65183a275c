"""The mixed soak: what a system promises, held against a ledger while its processes die and freeze under load."""
