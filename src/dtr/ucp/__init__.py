"""The control plane: machines (nodes), who they are, what each has to run, and who says so.

UCP knows nothing about registries: a node runs *services*, whose specifications other rooms
(`dtr.cluster`) write and whose components they bring.
"""
