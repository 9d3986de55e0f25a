import CPreload
import HMMLive
