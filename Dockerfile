# The registry in a container:   docker build -t dtr .
#                                docker run -p 5000:5000 -v dtr:/var/lib/dtr dtr
#
# BASE is any Debian-like image with Python 3.11 or newer and its venv module.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /build
# What is installed has no pip of its own: the one that installs stays behind in this stage.
RUN python3 -m venv tools && python3 -m venv --without-pip /opt/dtr
COPY requirements.lock requirements-build.lock ./
RUN tools/bin/pip --python /opt/dtr/bin/python install \
        --no-cache-dir --no-compile --require-hashes -r requirements.lock \
    && tools/bin/pip install --no-cache-dir --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
    && tools/bin/pip --python /opt/dtr/bin/python install --no-compile --no-deps dist/*.whl \
    && /opt/dtr/bin/python -m compileall -q /opt/dtr/lib
COPY deploy/healthcheck.py /opt/dtr/bin/healthcheck.py

FROM ${BASE}
RUN useradd --uid 4873 --user-group --no-log-init --no-create-home \
        --home-dir /var/lib/dtr --shell /usr/sbin/nologin dtr \
    && install --directory --owner dtr --group dtr --mode 0700 /var/lib/dtr
COPY --from=build /opt/dtr /opt/dtr
ENV PATH=/opt/dtr/bin:$PATH \
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
