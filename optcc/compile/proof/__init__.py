"""Proof of every pass: what it promised, held against real tokens through the interpreter."""

from optcc.compile.proof.data import ProofData, proof_data
from optcc.compile.proof.prove import Prove

__all__ = ["ProofData", "Prove", "proof_data"]
