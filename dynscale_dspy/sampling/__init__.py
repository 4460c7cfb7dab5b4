"""What is drawn next: the plans of a call and of a known set, their steps, strategies and chains."""
