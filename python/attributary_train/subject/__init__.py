"""The generator under study: a text-conditioned latent diffusion model, its training and its queries."""
