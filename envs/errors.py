"""What is raised where an environment is not as its suite says."""


class TaskError(ValueError):
    """An environment breaks a rule; the message is one line that names the task and the rule."""
