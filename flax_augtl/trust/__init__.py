"""What is computed from the features and predictions of a trained network: can its predictions be trusted?"""
