# The registry in a container:   docker build -t dtr .
#                                docker run -p 5000:5000 -v dtr:/var/lib/dtr dtr
#
# BASE is any Debian-like image with Python 3.11 or newer and its venv module. It only builds: the
# image gets of it what runs DTR (deploy/container_root.py), and is under 150 MB.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /build
# Libraries come with symbols for debuggers, an eighth of the image.
RUN command -v strip >/dev/null || { apt-get update -q \
    && apt-get install -q --yes --no-install-recommends binutils; }
# What is installed has no pip of its own: the one that installs stays behind in this stage.
RUN python3 -m venv tools && python3 -m venv --without-pip /opt/dtr
COPY requirements.lock requirements-build.lock ./
RUN tools/bin/pip install --no-cache-dir --require-hashes -r requirements-build.lock \
    && tools/bin/pip wheel --no-cache-dir --no-build-isolation --wheel-dir wheels \
        --require-hashes -r requirements.lock \
    && tools/bin/pip --python /opt/dtr/bin/python install --no-compile --no-deps wheels/*.whl
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
    && tools/bin/pip --python /opt/dtr/bin/python install --no-compile --no-deps dist/*.whl
COPY deploy/healthcheck.py /opt/dtr/bin/healthcheck.py
COPY deploy/container_root.py ./
RUN mkdir /image && python3 container_root.py /image /opt/dtr

FROM scratch
COPY --from=build /image /
# How engines copy owners and modes differs.
RUN ["/opt/dtr/bin/python", "-c", "import os; os.chown('/var/lib/dtr', 4873, 4873); os.chmod('/var/lib/dtr', 0o700); os.chmod('/tmp', 0o1777); os.chmod('/var/tmp', 0o1777)"]
ENV PATH=/opt/dtr/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    DTR_DATA__DIRECTORY=/var/lib/dtr \
    DTR_SERVER__LISTEN=0.0.0.0:5000
USER dtr
WORKDIR /var/lib/dtr
VOLUME /var/lib/dtr
EXPOSE 5000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s CMD ["python", "/opt/dtr/bin/healthcheck.py"]
ENTRYPOINT ["dtr"]
CMD ["serve"]
