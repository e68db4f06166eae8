"""Where do features lie?"""

#: Ways from features to points in the plane.
EMBEDDINGS = ("tsne", "pca", "umap")
