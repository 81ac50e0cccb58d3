# One image for all of relay's commands. deploy/image/build shows how it is built without a registry.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# requirements/traces.txt: with the export of traces.
ARG REQUIREMENTS=requirements/run.txt
WORKDIR /build
RUN python3 -m venv /build/tools && python3 -m venv /opt/relay
COPY requirements/build.txt ${REQUIREMENTS} requirements/
RUN /build/tools/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements/build.txt \
    && /opt/relay/bin/pip install --no-cache-dir --no-compile --require-hashes --no-deps -r ${REQUIREMENTS}
COPY pyproject.toml README.md ./
COPY relay relay
RUN /build/tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheels . \
    && /opt/relay/bin/pip install --no-cache-dir --no-compile --no-deps --no-index wheels/*.whl
# What a running relay never opens: installers, sources of extensions, types and tests of libraries.
# Compiled is everything (-f), also what pip has on its way: by content, as times are the image's.
RUN /opt/relay/bin/pip uninstall --yes pip \
    && site=$(/opt/relay/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
    && rm -rf "$site"/setuptools* "$site"/pkg_resources "$site"/_distutils_hack "$site"/distutils-precedence.pth \
    && find "$site" -type d \( -name tests -o -name test -o -name '.*' \) -prune -exec rm -rf {} + \
    && find "$site" -type f \( -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' \
        -o -name '*.pyi' -o -name '*.proto' \) -delete \
    && find /opt/relay/bin -mindepth 1 ! -name 'python*' ! -name relay -delete \
    && /opt/relay/bin/python -m compileall -q -f -j 0 --invalidation-mode unchecked-hash "$site"

FROM ${BASE}
# The base's own installers; nothing is installed any more. The journal's directory is its user's and
# group 0's, which is what any user that a platform chooses is in.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip \
    /usr/lib/python3*/ensurepip /usr/share/python-wheels \
    && install -d -o 10001 -g 0 -m 0775 /var/lib/relay
LABEL org.opencontainers.image.title="relay" \
      org.opencontainers.image.description="Feishu helpdesk events, once and in order, on Kafka" \
      org.opencontainers.image.version="0.1.0"
COPY --from=build /opt/relay /opt/relay
ENV PATH=/opt/relay/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RELAY_JOURNAL__PATH=/var/lib/relay/journal.db
USER 10001:10001
WORKDIR /var/lib/relay
# The journal is the only thing that is written; without a volume it goes with the container.
VOLUME /var/lib/relay
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.getenv('RELAY_ADMIN__PORT', '9090') + '/readyz', timeout=2)"]
ENTRYPOINT ["relay"]
CMD ["serve"]
