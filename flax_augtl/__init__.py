"""Fine-tune ImageNet-trained networks with their classification layer kept and augmented."""
