"""The gradient of the objective: manual, automatic, numeric, or by an estimator."""
