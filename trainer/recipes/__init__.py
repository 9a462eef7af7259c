"""One file a recipe, each with a function `recipe(facts) -> Recipe`; its docstring holds command and results."""
