"""From what the head predicts on each frame to labels: temporal inference between anchors."""
