"""Many runs from one plan: expanded to jobs (`plan`), run in processes that can be stopped (`runner`)."""
