"""The paper's ablation: which runs it is made of, running them, and judging what came out."""
