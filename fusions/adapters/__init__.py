"""Doors to other packages: models of numpyro, a sampler plugin for bilby, a sampler for cobaya."""


def from_numpyro(model, *args, **kwargs):
    """Make a problem of a numpyro model; needs ``pip install "fusions[numpyro]"``.

    The prior is that of the latent sites, the likelihood that of observed sites and factors. Deterministic sites become blobs.
    ``numpyro.sample(name, dist.Uniform(lo, hi), infer={"periodic": True})`` declares a circle; `VonMises` is one anyway.

    Parameters
    ----------
    model : numpyro model with continuous latent sites, all of proper distributions.
    *args, **kwargs : arguments of the model, such as its data.

    Returns
    -------
    Problem with one parameter per component of each latent site: ``tau``, or ``theta[0]``, ``theta[1]``, ... for a site of shape (n,).
    """
    try:
        from fusions.adapters.numpyro import make_problem
    except ModuleNotFoundError as error:
        if error.name != "numpyro":
            raise
        raise ModuleNotFoundError('from_numpyro needs numpyro. Type pip install "fusions[numpyro]".', name="numpyro") from None
    return make_problem(model, args, kwargs)
