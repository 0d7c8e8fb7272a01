"""Networks: trunks, the actor and critic around them, encoders of tasks, mask generators."""
