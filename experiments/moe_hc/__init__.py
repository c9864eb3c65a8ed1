"""Hillclimb of Levanter's routed-expert MLP, `levanter.grug.grug_moe.moe_mlp`."""
