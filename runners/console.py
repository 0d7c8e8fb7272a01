"""A console that outlives whoever reads it."""

import os

from rich.console import Console


class LastingConsole(Console):
    """`rich`'s, but where its reader goes away (`| head`, a killed `tee`) the program goes on.

    What is shown from then on is lost; `rich` itself would end the process.
    """

    def on_broken_pipe(self) -> None:
        """Show nothing any more; what Python still has in its buffer goes nowhere."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)

    def print_line(self, line: str) -> None:
        """Write a line as it is: no markup, no breaks, and tabs stay tabs."""
        if self.is_terminal:
            self.print(line, highlight=False, soft_wrap=True, markup=False)
        elif not self.quiet:
            try:
                print(line, file=self.file, flush=True)
            except BrokenPipeError:
                self.on_broken_pipe()
