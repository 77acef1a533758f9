"""Commands of `dtr` that change or show the cluster; all go through the control plane."""
