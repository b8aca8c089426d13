"""What the features of sparse autoencoders (SAEs) say of categorized texts, and of two models."""
