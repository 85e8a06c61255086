"""The recipe ``yolo``: an ultralytics detector trained on the seeds, and a tracker."""
