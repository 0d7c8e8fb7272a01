"""Networks: trunks, the actor and critic doors, and the mask generator of MUST."""
