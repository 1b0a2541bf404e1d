"""Fine-tuning and self-distillation."""
