"""What policies and critics pass on to the trunk they hold."""

from collections.abc import Sequence

from torch import Tensor, nn

from networks.masked import maskable, write_masks_


class TrunkOwner(nn.Module):
    """A module with a `trunk`, of which a learner asks for masks and tells the end of iterations.

    The masks of a policy's layer are `[num_tasks, *shape]`, those of critics
    `[num_critics, num_tasks, *shape]`. Without masks, what concerns them is a TypeError.
    """

    trunk: nn.Module

    def end_iteration(self) -> None:
        """Tell the trunk that an iteration of updates is over: boosting of k-winners decays."""
        if (end := getattr(self.trunk, "end_iteration", None)) is not None:
            end()

    @property
    def mask_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of one task's mask (and one critic's) in each masked layer."""
        return maskable(self.trunk).mask_shapes

    def committed(self) -> list[Tensor]:
        """Return copies of the masks in use, bool."""
        return [buffer.clone() for buffer in maskable(self.trunk).mask_buffers()]

    def commit(self, masks: Sequence[Tensor]) -> None:
        """Put new masks into use.

        Raises:
            ValueError: if a shape differs.
        """
        write_masks_(maskable(self.trunk).mask_buffers(), masks)
