"""Group-relative policy optimisation: sample groups of captions, score them, move the policy towards the better ones.

`rollouts` holds the engines that sample, in the trainer's own process or in vLLM or SGLang.
"""
