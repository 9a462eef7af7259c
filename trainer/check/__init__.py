"""Says whether a dataset is fit to be trained on, before minutes of training: `python -m trainer.check --data=DATA`.

`examine` computes features and all that is measured on them: `probe`, `label_issues`, `learning_curve`, `outliers`,
`shortcuts`, `arrivals`; `facts` holds what is known of the images besides; `verdict` judges, `page` shows.
"""
